"""What everything else stands on: errors as sentences, atomic files, images, batches that fit into memory."""
