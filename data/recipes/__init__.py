"""Recipes for published layouts of image data sets, one for each layout."""

from data.recipes.arrays import CIFAR_10, CIFAR_100, MNIST_DIGITS
from data.recipes.cub200 import CUB200
from data.recipes.imagenet import IMAGENET
from data.recipes.places365 import PLACES365
from data.recipes.plain import FOLDER, LABELS_CSV

RECIPES = {
    recipe.name: recipe
    for recipe in (IMAGENET, CUB200, PLACES365, MNIST_DIGITS, CIFAR_10, CIFAR_100, LABELS_CSV, FOLDER)
}

__all__ = ["RECIPES"]
