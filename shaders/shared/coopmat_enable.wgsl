// Comes first in a module that has `coopmat_16.wgsl` or `coopmat_8.wgsl`.
enable f16;
enable wgpu_cooperative_matrix;
