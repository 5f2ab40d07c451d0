"""Continual methods: those that learn by gradient and those with a memory."""
