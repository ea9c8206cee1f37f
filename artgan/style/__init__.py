"""Style transfer: repainting a picture like another one."""
