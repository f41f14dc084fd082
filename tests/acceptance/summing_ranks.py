"""A rank of an MPI program, without any package for MPI: Open MPI's library is enough."""

import ctypes
import ctypes.util
import os

mpi = ctypes.CDLL(ctypes.util.find_library("mpi"), ctypes.RTLD_GLOBAL)


def handle(name: str) -> ctypes.c_void_p:
    return ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(mpi, name)))


world = handle("ompi_mpi_comm_world")
rank, size, total = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
mpi.MPI_Init(None, None)
mpi.MPI_Comm_rank(world, ctypes.byref(rank))
mpi.MPI_Comm_size(world, ctypes.byref(size))
whole = (handle("ompi_mpi_int"), handle("ompi_mpi_op_sum"), world)
mpi.MPI_Allreduce(ctypes.byref(rank), ctypes.byref(total), 1, *whole)
os.write(1, f"rank {rank.value} of {size.value}: the sum is {total.value}\n".encode())
mpi.MPI_Finalize()
