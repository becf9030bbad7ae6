"""Reads numbers from the text of a page in English."""

import re

import numpy as np


def numbers(texts):
    """Returns numbers as an array: '−1,234.5' -> -1234.5, '3.4%' -> 3.4, '<0.01%' -> 0.01."""
    return np.vectorize(lambda text: float(re.sub(r"[,%<]", "", text).replace("−", "-")))(texts)


def stated(text):
    """Returns the numbers after ± in a text."""
    return [float(found.rstrip(".")) for found in re.findall(r"±([\d.]+)", text)]
