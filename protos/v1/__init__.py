"""Generated messages of edgejoule.v1; `make protos` writes them, nobody edits them."""
