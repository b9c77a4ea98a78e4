"""Values that all planes share: jobs, verdicts, test results, the queue's order. No I/O."""
