"""Who is in an image, as perceived: probes, and what they say of a set of images."""
