"""The starter models: handwritten digits, trained on scikit-learn's real ones.

`artifacts/` holds them ready to publish, which needs neither torch nor a download. The other modules train
them anew: `python -m penstock_digits.train`.
"""
