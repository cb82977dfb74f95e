"""The gRPC face: translate, delegate, translate back."""
