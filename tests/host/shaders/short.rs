//! The shaders of a player are those of all other builds, with short names.

use std::fs;
use std::path::{Path, PathBuf};

use enfold::gpu::shaders::{self, Shader};
use naga::back::spv;

use super::parse;
use super::short_names::{ShortNames, WRITERS};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder and of those below it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The names that the build script finds.
fn short_names() -> ShortNames {
    let read = |path: PathBuf| fs::read_to_string(path).expect("a file");
    let bare = |path| {
        read(path).lines().map(|line| line.split("//").next().unwrap_or_default().trim().to_owned() + "\n").collect()
    };
    let texts: Vec<String> = files(&root().join("shaders")).into_iter().map(bare).collect();
    ShortNames::new(&texts, &WRITERS.map(|path| read(root().join(path))))
}

/// The names by which the host sets override constants and starts entry points. SPIR-V has no names of overrides.
fn of_the_host(wgsl: &str, shader: &Shader) -> Vec<String> {
    let (module, _) = parse(wgsl, shader);
    let overrides = module.overrides.iter().filter_map(|(_, each)| each.name.clone());
    overrides.chain(module.entry_points.iter().map(|entry| entry.name.clone())).collect()
}

#[test]
fn short_names_change_no_shader() {
    let names = short_names();
    let [mut all, mut short] = [0, 0];
    for (shader, _) in shaders::all() {
        let words = |wgsl: &str| {
            let (module, info) = parse(wgsl, &shader);
            let options =
                spv::Options { flags: spv::WriterFlags::empty(), lang_version: (1, 6), ..spv::Options::default() };
            spv::write_vec(&module, &info, &options, None).map_err(|e| e.to_string())
        };
        let [long, new] = [shader.wgsl(), names.shorten(&shader.wgsl())];
        assert_eq!(words(&new), words(&long), "{}:\n{new}", shader.name);
        assert_eq!(new.lines().count(), long.lines().count(), "{}", shader.name);
        assert_eq!(of_the_host(&new, &shader), of_the_host(&long, &shader), "{}", shader.name);
        (all, short) = (all + long.len(), short + new.len());
    }
    assert!(10 * short < 7 * all, "{short} of {all} bytes");
}

/// Names that mean something to WGSL or to the host stay, and so do spaces that separate.
#[test]
fn what_others_name_stays() {
    let wgsl = "struct Pair { first: u32, FIRST: u32 }\n\
                @group(0) @binding(0) var<storage, read> pairs: array<Pair>;\n\
                const FIRST: u32 = 1u;\n\
                override WIDTH: u32 = 4u;\n\
                fn read(group: u32) -> u32 { return group - -1; }\n\
                @compute @workgroup_size(64)\n\
                fn start(@builtin(workgroup_id) group: vec3<u32>) { let first = max(read(group.x), FIRST * WIDTH);\n\
                for (var at = 0u; at < first; at++) { switch at { default: { pairs[at].first = written(pairs[at].FIRST); } } } }\n";
    // Another shader has a constant of the name of this one's override.
    let other = "const WIDTH: u32 = 8u;\nfn written(x: u32) -> u32 { return x * WIDTH; }";
    let names = ShortNames::new(&[wgsl.to_owned(), other.to_owned()], &["\"written(\"".to_owned()]);
    let expected = "struct Pair{first:u32,FIRST:u32}\n\
                    @group(0)@binding(0)var<storage,read>pairs:array<Pair>;\n\
                    const a0:u32=1u;\n\
                    override WIDTH:u32=4u;\n\
                    fn read(a:u32)->u32{return a- -1;}\n\
                    @compute@workgroup_size(64)\n\
                    fn start(@builtin(workgroup_id)a:vec3<u32>){let b=max(read(a.x),a0*WIDTH);\n\
                    for(var c=0u;c<b;c++){switch c{default:{pairs[c].first=written(pairs[c].FIRST);}}}}\n";
    assert_eq!(names.shorten(wgsl), expected);
}
