"""Cards, measured scores and licenses of models and datasets, and their way to the Hub; start with `hub.py`."""
