"""From a trained model to a bundle: an integer backbone and a head that trains inside TFLite."""
