"""Split inference: do the features that are sent to a model leak the image?"""
