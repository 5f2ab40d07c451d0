"""Continual methods: those that learn by gradient and those that remember."""
