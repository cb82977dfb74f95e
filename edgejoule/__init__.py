"""What belongs to the whole of edgejoule and to none of its programs: adapters to other frameworks.

This file imports nothing.
"""
