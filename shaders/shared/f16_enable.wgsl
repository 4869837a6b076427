// Comes first in a module that computes in f16.
enable f16;
