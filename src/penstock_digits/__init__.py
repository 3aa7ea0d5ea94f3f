"""The starter models: handwritten digits, trained on scikit-learn's data set of real ones.

`artifacts/` contains them ready to publish, without torch and without a download. The other modules train them again:
`python -m penstock_digits.train`.
"""
