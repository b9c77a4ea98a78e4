"""Values that all parts of the runner share: jobs, verdicts, test results, the queue's order. No I/O."""
