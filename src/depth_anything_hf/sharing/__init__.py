"""What a shared model or data set says of itself, and how it gets to the Hub; `hub.py` puts it to use."""
