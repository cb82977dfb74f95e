"""From a bundle and a fine-tuned head to one fully integer .tflite, without TensorFlow."""
