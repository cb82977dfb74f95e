"""Power: sensors, the clock they share with the host, and the meter that turns them into joules."""
