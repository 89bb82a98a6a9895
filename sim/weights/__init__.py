"""Forms of weights as data: a grid of codes, codewords from codebooks, or tables by centroid.

A form is one of the three variants of `Form`, and `WeightForm` says what all of them can do.
Whoever must know more of one matches on its class. Golden models, files, quantizers and packers
share them.
"""

from evolute.sim.weights.codebook import Book, Codebook
from evolute.sim.weights.form import Rows, StoredBits, WeightForm, group_bounds
from evolute.sim.weights.grid import Grid
from evolute.sim.weights.table import Centroids, Table, nearest, subspaces

Form = Grid | Codebook | Table
"""Any form of weights."""

FORMS: tuple[type[WeightForm], ...] = (Grid, Codebook, Table)
"""The variants; a type checker sees here that each has what `WeightForm` asks for."""

__all__ = [
    "FORMS",
    "Book",
    "Centroids",
    "Codebook",
    "Form",
    "Grid",
    "Rows",
    "StoredBits",
    "Table",
    "WeightForm",
    "group_bounds",
    "nearest",
    "subspaces",
]
