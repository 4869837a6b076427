# an .npz whose directory has n members and then many ends, of which each claims one member more
import struct, sys
n, ends = int(sys.argv[1]), int(sys.argv[2])
member = struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, n + 1, n + 1, n * len(member), 0, 0)
open("x.npz", "wb").write(member * n + end * ends)
