"""The network, its files and the device it runs on."""

import os

# Before torch allocates for the first time, when it reads this: huge pages for large arrays
# on Linux, which save it most of the time it spends waiting for memory.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
