"""One room a task: dataset, targets, augmentation, metric."""
