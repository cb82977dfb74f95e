"""The roof: rooms that start or import both ends, such as the demo, the testbed and fleet simulations."""
