"""Conversion of a guest: our fast and full way beside virt-v2v-in-place, on the same image."""
