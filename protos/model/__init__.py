"""A model bundle and the one runner of its TFLite files, used by devices and by the coordinator alike."""
