"""Chinese ink-wash landscapes, painted procedurally: the data set that is always available.

A landscape is built up as a painter would: sky, far ranges, nearer mountains with mist at their
feet, water, trees, a boat, the seal. To follow one from its number to its pixels, start with
`compositions.paint`; its motifs are in `land` and `things`, how paint reaches the paper in `brush`,
randomness and texture in `noise`.

The pixels of `paint(seed, index)` are the same on every machine, so a checkpoint or a benchmark may
name this set by its seed alone. IEEE 754 rounds + - * / and sqrt exactly, and numpy applies them
one at a time; it makes no such promise for sin, exp, pow or a matrix product, whose last bits
change with the processor's vector units, nor for a sum, whose order may. So curves here are
polynomials, directions are unit vectors, randomness is uniform PCG64 bits, and Pillow, which fills
polygons in floating point, only writes the file. A test ensures it.
"""

from artgan.inkwash.compositions import generate, paint
from artgan.inkwash.noise import SIZE

__all__ = ["SIZE", "paint", "generate"]
