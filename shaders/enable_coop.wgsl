// First in a module that has `coop.wgsl` or `coop8.wgsl`.
enable f16;
enable wgpu_cooperative_matrix;
