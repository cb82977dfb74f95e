"""The gRPC services of the coordinator: translate, delegate, translate back; and what their calls share."""
