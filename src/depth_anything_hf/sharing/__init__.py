"""Cards, measured scores and licenses of models and data sets, and their way to the Hub; start with `hub.py`."""
