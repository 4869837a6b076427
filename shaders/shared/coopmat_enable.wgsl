// Comes first in a module with cooperative matrices, behind `f16_enable.wgsl` if they have elements of 16 bits.
enable wgpu_cooperative_matrix;
