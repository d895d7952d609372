"""Driver calls through cuda-bindings, which finds the driver by itself; prints each result that is no address.
usage: driver_calls.py ALLOCATIONS BYTES"""
import sys

from cuda.bindings import driver as d

count, size = int(sys.argv[1]), int(sys.argv[2])


def call(function, *args):
    result = getattr(d, function)(*args)
    error, values = result[0], result[1:]
    shown = [v if isinstance(v, (int, bytes, str)) else type(v).__name__ for v in values]
    print(function, int(error), shown)
    return values[0] if len(values) == 1 else values


def content(memory, length):
    out = bytearray(length)
    call("cuMemcpyDtoH", out, memory, length)
    return out


call("cuMemAlloc", 1 << 20)
call("cuInit", 0)
device = call("cuDeviceGet", 0)
call("cuDeviceGetName", 64, device)
context = call("cuDevicePrimaryCtxRetain", device)
call("cuMemAlloc", size)
call("cuCtxSetCurrent", context)
stream, event = call("cuStreamCreate", 0), call("cuEventCreate", 0)
memory = [call("cuMemAlloc", size) for _ in range(count)]
for i, each in enumerate(memory):
    call("cuMemsetD8", each, i + 1, size)
    base, length = call("cuMemGetAddressRange", d.CUdeviceptr(int(each) + 4096))
    print("range", int(base) == int(each), length)
print("content", [set(content(each, size)) for each in memory])
for attribute in ("MEMORY_TYPE", "RANGE_SIZE", "IS_MANAGED", "DEVICE_ORDINAL"):
    call("cuPointerGetAttribute", getattr(d.CUpointer_attribute, "CU_POINTER_ATTRIBUTE_" + attribute), memory[0])
call("cuMemcpyHtoDAsync", memory[0], bytes(range(256)), 256, stream)
call("cuMemcpyDtoDAsync", int(memory[-1]) + 512, memory[0], 256, stream)
call("cuEventRecord", event, stream)
call("cuStreamSynchronize", stream)
call("cuEventQuery", event)
print("copied", content(int(memory[-1]) + 512, 256) == bytes(range(256)))
pool = call("cuMemAllocAsync", 1 << 20, stream)
call("cuMemsetD32Async", pool, 7, 1024, stream)
call("cuMemFreeAsync", pool, stream)
call("cuMemFree", 12345)
call("cuMemFree", int(memory[0]) + 256)
for each in memory:
    call("cuMemFree", each)
call("cuMemFree", memory[0])

prop = d.CUmemAllocationProp()
prop.type = d.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
prop.location.type = d.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
prop.location.id = 0
granule = call("cuMemGetAllocationGranularity", prop, d.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM)
handle = call("cuMemCreate", granule, prop, 0)
space = call("cuMemAddressReserve", 2 * granule, 0, 0, 0)
access = d.CUmemAccessDesc()
access.location = prop.location
access.flags = d.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
for at in (0, granule):
    call("cuMemMap", int(space) + at, granule, 0, handle, 0)
call("cuMemSetAccess", space, 2 * granule, [access], 1)
call("cuMemsetD8", space, 9, 100)
print("alias", content(int(space) + granule, 100) == bytes([9]) * 100)
call("cuMemUnmap", space, 2 * granule)
call("cuMemRelease", handle)
call("cuMemAddressFree", space, 2 * granule)
call("cuStreamDestroy", stream)
call("cuEventDestroy", event)
call("cuDevicePrimaryCtxRelease", device)
