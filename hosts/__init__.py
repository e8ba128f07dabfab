"""What the faces in ComfyUI and in A1111/Forge share. Over training/ and debias/, knows no host."""
