"""Adapters: methods of captum, pytorch-grad-cam and zennit as explainers, where these libraries are installed."""
