"""The stream: learn a task, remember it, evaluate every seen task, record, go on."""
