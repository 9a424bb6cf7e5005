"""Images, COCO files, vocabularies and augmentation, whatever the task."""
