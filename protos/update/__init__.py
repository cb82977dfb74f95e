"""What a device sends: changes of the head, their codecs, and the tensors that describe themselves. numpy only."""
