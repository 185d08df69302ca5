"""Galleries of all explainers on demo photographs."""
