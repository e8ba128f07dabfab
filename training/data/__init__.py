"""From folders of images to what a step is fed: captions, buckets, masks, latents, groups, caches."""
