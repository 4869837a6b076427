# a small .npz of many rows of zeros
import struct, sys, zlib
rows, length = int(sys.argv[1]), int(sys.argv[2])
h = ("{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }" % (rows, length)).encode()
h += b" " * ((64 - (10 + len(h) + 1) % 64) % 64) + b"\n"
head, data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(h)) + h, bytes(4 * rows * length)
c = zlib.compressobj(9, zlib.DEFLATED, -15)
body, crc, size, name = c.compress(head) + c.compress(data) + c.flush(), zlib.crc32(data, zlib.crc32(head)), len(head) + len(data), b"x.npy"
local = struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, 0, 8, 0, 0, crc, len(body), size, len(name), 0) + name
central = struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, 0, 8, 0, 0, crc, len(body), size, len(name), 0, 0, 0, 0, 0, 0) + name
end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, len(central), len(local) + len(body), 0)
open("x.npz", "wb").write(local + body + central + end)
