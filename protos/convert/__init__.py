"""Our values to messages of edgejoule.v1 and back: the only translator.

Reading is where bytes from the network become values, so it is strict: an enum without a meaning, a number that is
not finite, or a list longer than it can honestly be is an :class:`~protos.errors.UpdateError` that names the field.
"""
