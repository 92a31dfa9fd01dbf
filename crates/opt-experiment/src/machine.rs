//! What of this machine and its environment changes the last bits of a result, and with them the result.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use opt_report::Cpu;
use tch::Device;

use crate::identity::{Ingredient, fields};

/// The libtorch that this program is built with.
pub const LIBTORCH_VERSION: &str = env!("OPT_LIBTORCH_VERSION");

/// Where a setting has an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// On every device: what runs on a GPU has its images and schedules from the CPU.
    Everywhere,
    /// On a GPU.
    Cuda,
}

/// Variables of the environment by which libtorch and the libraries below it choose other kernels, another order of
/// summation or another precision, with what each does. Those that only say when a thread sleeps, where memory comes from
/// or what is printed are not among them (`OMP_WAIT_POLICY`, `GOMP_SPINCOUNT`, `THP_MEM_ALLOC_ENABLE`,
/// `ONEDNN_PRIMITIVE_CACHE_CAPACITY`, `PYTORCH_ALLOC_CONF`, `MKL_VERBOSE`); neither is `OMP_NUM_THREADS`, whose effect is the
/// number of threads.
pub const SETTINGS: &[(&str, Reach, &str)] = &[
    // ATen.
    (
        "ATEN_CPU_CAPABILITY",
        Reach::Everywhere,
        "vector width of its own kernels",
    ),
    (
        "TORCH_MKLDNN_MATMUL_MIN_DIM",
        Reach::Everywhere,
        "which products oneDNN computes",
    ),
    (
        "TORCH_MKLDNN_MATMUL_MIN_SIZE",
        Reach::Everywhere,
        "which products oneDNN computes",
    ),
    (
        "TORCH_LINEAR_FLATTEN_3D",
        Reach::Everywhere,
        "form of a product",
    ),
    // oneDNN reads each of its names with both prefixes.
    (
        "ONEDNN_MAX_CPU_ISA",
        Reach::Everywhere,
        "newest instructions of its kernels",
    ),
    (
        "DNNL_MAX_CPU_ISA",
        Reach::Everywhere,
        "newest instructions of its kernels",
    ),
    (
        "ONEDNN_CPU_ISA_HINTS",
        Reach::Everywhere,
        "vector width of its kernels",
    ),
    (
        "DNNL_CPU_ISA_HINTS",
        Reach::Everywhere,
        "vector width of its kernels",
    ),
    (
        "ONEDNN_DEFAULT_FPMATH_MODE",
        Reach::Everywhere,
        "whether f32 is computed in bf16",
    ),
    (
        "DNNL_DEFAULT_FPMATH_MODE",
        Reach::Everywhere,
        "whether f32 is computed in bf16",
    ),
    // MKL.
    (
        "MKL_CBWR",
        Reach::Everywhere,
        "kernels of reproducible order",
    ),
    (
        "MKL_ENABLE_INSTRUCTIONS",
        Reach::Everywhere,
        "newest instructions of its kernels",
    ),
    (
        "MKL_NUM_STRIPES",
        Reach::Everywhere,
        "how threads share a product",
    ),
    (
        "MKL_DYNAMIC",
        Reach::Everywhere,
        "whether it takes fewer threads",
    ),
    ("MKL_NUM_THREADS", Reach::Everywhere, "its threads"),
    ("MKL_DOMAIN_NUM_THREADS", Reach::Everywhere, "its threads"),
    (
        "INTEL_ISA_DISABLE",
        Reach::Everywhere,
        "instructions of Intel's mathematical functions",
    ),
    // FBGEMM.
    (
        "FBGEMM_ENABLE_INSTRUCTIONS",
        Reach::Everywhere,
        "newest instructions of its kernels",
    ),
    (
        "FBGEMM_ENABLE_AVX512_256",
        Reach::Everywhere,
        "vector width of its kernels",
    ),
    ("FBGEMM_NO_ASMJIT", Reach::Everywhere, "other kernels"),
    ("FBGEMM_NO_AUTOVEC", Reach::Everywhere, "other kernels"),
    ("FBGEMM_FORCE_AUTOVEC", Reach::Everywhere, "other kernels"),
    // OpenBLAS, in a libtorch of the user's own.
    ("OPENBLAS_CORETYPE", Reach::Everywhere, "its kernels"),
    ("OPENBLAS_NUM_THREADS", Reach::Everywhere, "its threads"),
    ("GOTO_NUM_THREADS", Reach::Everywhere, "its threads"),
    // OpenMP: with another number of threads, sums are cut elsewhere.
    (
        "OMP_DYNAMIC",
        Reach::Everywhere,
        "whether a region takes fewer threads",
    ),
    ("OMP_THREAD_LIMIT", Reach::Everywhere, "most threads"),
    (
        "OMP_MAX_ACTIVE_LEVELS",
        Reach::Everywhere,
        "regions that have threads; 0: none",
    ),
    (
        "OMP_NESTED",
        Reach::Everywhere,
        "threads of regions within regions",
    ),
    (
        "OMP_SCHEDULE",
        Reach::Everywhere,
        "how threads share a loop",
    ),
    (
        "KMP_DETERMINISTIC_REDUCTION",
        Reach::Everywhere,
        "order of sums (Intel's and LLVM's OpenMP)",
    ),
    (
        "KMP_FORCE_REDUCTION",
        Reach::Everywhere,
        "order of sums (Intel's and LLVM's OpenMP)",
    ),
    (
        "KMP_HW_SUBSET",
        Reach::Everywhere,
        "threads (Intel's and LLVM's OpenMP)",
    ),
    // The C library.
    (
        "GLIBC_TUNABLES",
        Reach::Everywhere,
        "instructions of exp, log, cos",
    ),
    // Which GPU.
    ("CUDA_VISIBLE_DEVICES", Reach::Cuda, "which GPU"),
    ("CUDA_DEVICE_ORDER", Reach::Cuda, "which GPU"),
    // TensorFloat-32: 11 bits of the mantissa in place of 24.
    (
        "NVIDIA_TF32_OVERRIDE",
        Reach::Cuda,
        "TF32 in all of NVIDIA's libraries",
    ),
    (
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
        Reach::Cuda,
        "TF32 in matrix products",
    ),
    // cuBLAS and cuDNN.
    (
        "CUBLAS_WORKSPACE_CONFIG",
        Reach::Cuda,
        "memory for kernels, and so kernels",
    ),
    (
        "CUBLASLT_WORKSPACE_SIZE",
        Reach::Cuda,
        "memory for kernels, and so kernels",
    ),
    (
        "CUBLAS_EMULATE_SINGLE_PRECISION",
        Reach::Cuda,
        "f32 made of bf16 products",
    ),
    (
        "CUBLAS_EMULATION_STRATEGY",
        Reach::Cuda,
        "when f32 is made of other products",
    ),
    (
        "CUDNN_CONV_WSCAP_DBG",
        Reach::Cuda,
        "memory for kernels, and so kernels",
    ),
    (
        "TORCH_CUDNN_V8_API_DISABLED",
        Reach::Cuda,
        "how kernels are chosen",
    ),
    (
        "TORCH_CUDNN_USE_HEURISTIC_MODE_B",
        Reach::Cuda,
        "how kernels are chosen",
    ),
    (
        "TORCH_BLAS_PREFER_CUBLASLT",
        Reach::Cuda,
        "which library multiplies",
    ),
    (
        "TORCH_LINALG_PREFER_CUSOLVER",
        Reach::Cuda,
        "which library decomposes",
    ),
    (
        "DISABLE_ADDMM_CUDA_LT",
        Reach::Cuda,
        "which library multiplies",
    ),
    (
        "PYTORCH_TUNABLEOP_ENABLED",
        Reach::Cuda,
        "kernels chosen by timing",
    ),
    (
        "PYTORCH_TUNABLEOP_TUNING",
        Reach::Cuda,
        "kernels chosen by timing",
    ),
    (
        "PYTORCH_TUNABLEOP_FILENAME",
        Reach::Cuda,
        "kernels chosen by timing",
    ),
];

/// Those of the [`SETTINGS`] that are set and reach `device`, with their values.
#[must_use]
pub fn settings(device: Device) -> BTreeMap<String, String> {
    chosen(device, |name| std::env::var_os(name))
}

fn chosen(device: Device, get: impl Fn(&str) -> Option<OsString>) -> BTreeMap<String, String> {
    let reaches = |reach: Reach| match reach {
        Reach::Everywhere => true,
        Reach::Cuda => device != Device::Cpu,
    };
    let names = SETTINGS.iter().filter(|(_, reach, _)| reaches(*reach));
    names
        .filter_map(|(name, _, _)| {
            let value = get(name)?.to_string_lossy().into_owned();
            Some(((*name).to_owned(), value))
        })
        .collect()
}

/// The processor beyond its name, the libraries that this process has loaded, and its GPUs: machines that differ in any of
/// them round differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    cpu: Cpu,
    /// Instructions on vectors and matrices, as the kernel names them: kernels are chosen by them.
    instructions: Vec<String>,
    /// Sizes of the caches of the first core: kernels cut their loops by them.
    caches: Vec<String>,
    /// Files of libtorch, OpenMP and the mathematical functions with their sizes: `LD_LIBRARY_PATH` and `LD_PRELOAD` may put
    /// others in place of those that the program was built with.
    libraries: Vec<(String, u64)>,
    /// Models of GPUs and their driver.
    gpus: Vec<String>,
}

impl Machine {
    /// Looks at this machine, for results on `device`.
    #[must_use]
    pub fn new(cpu: &Cpu, device: Device) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu: cpu.clone(),
            instructions: instructions(&read("/proc/cpuinfo")),
            caches: caches(Path::new("/sys/devices/system/cpu/cpu0/cache")),
            libraries: libraries(&read("/proc/self/maps"), device),
            gpus: match device {
                Device::Cpu => Vec::new(),
                _ => gpus(Path::new("/proc/driver/nvidia")),
            },
        }
    }
}

/// How many cores there are says nothing: the threads that are used are another ingredient.
impl Ingredient for Machine {
    fn write(&self, text: &mut String) {
        let Self {
            cpu:
                Cpu {
                    model,
                    features,
                    cores: _,
                },
            instructions,
            caches,
            libraries,
            gpus,
        } = self;
        fields("machine")
            .with("cpu", model)
            .with("features", features)
            .with("instructions", instructions)
            .with("caches", caches)
            .with("libraries", libraries)
            .with("gpus", gpus)
            .write(text);
    }
}

/// The flags of the first processor that are about vectors, matrices and fused products, in order.
fn instructions(cpuinfo: &str) -> Vec<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("flags"));
    let flags = line.and_then(|line| Some(line.split_once(':')?.1));
    let counted = |flag: &&str| {
        ["avx", "amx", "fma", "sse", "f16c"]
            .iter()
            .any(|kind| flag.starts_with(kind))
    };
    let mut flags: Vec<String> = flags
        .unwrap_or_default()
        .split_whitespace()
        .filter(counted)
        .map(str::to_owned)
        .collect();
    flags.sort();
    flags
}

/// `1 Data 32K` and its siblings.
fn caches(folder: &Path) -> Vec<String> {
    let of = |index: usize| -> Option<String> {
        let folder = folder.join(format!("index{index}"));
        let read = |name: &str| {
            let text = fs::read_to_string(folder.join(name)).ok()?;
            Some(text.trim().to_owned())
        };
        Some(format!(
            "{} {} {}",
            read("level")?,
            read("type")?,
            read("size")?
        ))
    };
    (0..8).map_while(of).collect()
}

/// Files that are mapped into this process and compute numbers on `device`, by name.
fn libraries(maps: &str, device: Device) -> Vec<(String, u64)> {
    const CUDNN: &str = "libcudnn";
    const KINDS: [&str; 10] = [
        "libc10",
        "libcublas",
        CUDNN,
        "libgomp",
        "libiomp",
        "libomp",
        "libm.",
        "libmkl",
        "libopenblas",
        "libtorch_",
    ];
    let paths = maps.lines().filter_map(|line| {
        let path = Path::new(&line[line.find('/')?..]);
        let name = path.file_name()?.to_str()?;
        // Whoever asks whether there is a GPU has loaded those of CUDA.
        let of_cuda = ["cuda", "cublas", "cudnn"].iter().any(|n| name.contains(n));
        let counted =
            KINDS.iter().any(|kind| name.starts_with(kind)) && (device != Device::Cpu || !of_cuda);
        counted.then_some((path, name))
    });
    let of = |(path, name): (&Path, &str)| -> Vec<(String, u64)> {
        if !name.starts_with(CUDNN) {
            let bytes = fs::metadata(path).map_or(0, |m| m.len());
            return vec![(name.to_owned(), bytes)];
        }
        // It loads its parts at the first operator that needs them: those that lie beside it count at any time.
        let entries = path.parent().and_then(|folder| fs::read_dir(folder).ok());
        let parts = entries.into_iter().flatten().flatten().filter_map(|part| {
            let name = part.file_name().into_string().ok()?;
            let bytes = fs::metadata(part.path()).map_or(0, |m| m.len());
            name.starts_with(CUDNN).then_some((name, bytes))
        });
        parts.collect()
    };
    let mut found: Vec<(String, u64)> = paths.flat_map(of).collect();
    found.sort();
    found.dedup();
    found
}

/// The version of the driver and the model of each GPU.
fn gpus(driver: &Path) -> Vec<String> {
    let version = fs::read_to_string(driver.join("version")).unwrap_or_default();
    let mut found: Vec<String> = fs::read_dir(driver.join("gpus"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.path().join("information")).ok()?;
            let line = text.lines().find(|line| line.starts_with("Model:"))?;
            Some(line["Model:".len()..].trim().to_owned())
        })
        .collect();
    found.sort();
    let version = version.lines().next().map(str::to_owned);
    version.into_iter().chain(found).collect()
}

/// The threads that libtorch uses: `OMP_NUM_THREADS`, else all cores.
#[must_use]
pub fn threads() -> usize {
    let wish = std::env::var("OMP_NUM_THREADS").ok();
    wish.and_then(|n| n.parse().ok())
        .filter(|n| *n > 0)
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    #[test]
    fn what_is_set_counts_where_it_reaches() {
        let set = |names: &'static [&str]| {
            move |name: &str| names.contains(&name).then(|| OsString::from("1"))
        };
        let names = |device, variables: &'static [&str]| -> Vec<String> {
            chosen(device, set(variables)).into_keys().collect()
        };
        // Nothing is set: ordinary keys know nothing of the list.
        assert_eq!(names(Device::Cpu, &[]), [""; 0]);
        // oneDNN honours both names.
        for variable in [
            "DNNL_MAX_CPU_ISA",
            "ONEDNN_MAX_CPU_ISA",
            "DNNL_DEFAULT_FPMATH_MODE",
            "DNNL_CPU_ISA_HINTS",
            "OPENBLAS_NUM_THREADS",
        ] {
            let only = move |name: &str| (name == variable).then(|| OsString::from("AVX2"));
            let settings = chosen(Device::Cpu, only);
            assert_eq!(settings[variable], "AVX2");
            let key = |settings| Identity::default().with("settings", settings).hash();
            assert_ne!(key(settings), key(BTreeMap::new()));
        }
        // `cargo xtask` always sets this one; without a GPU it does nothing.
        let variables = &["NVIDIA_TF32_OVERRIDE", "OMP_WAIT_POLICY", "OMP_NUM_THREADS"];
        assert_eq!(names(Device::Cpu, variables), [""; 0]);
        assert_eq!(names(Device::Cuda(0), variables), ["NVIDIA_TF32_OVERRIDE"]);
        // An empty value is a value.
        let empty = chosen(Device::Cpu, |name| (name == "MKL_CBWR").then(OsString::new));
        assert_eq!(empty["MKL_CBWR"], "");
    }

    #[test]
    fn settings_are_named_once() {
        for (n, (name, _, what)) in SETTINGS.iter().enumerate() {
            assert!(!what.is_empty());
            assert!(
                SETTINGS[..n].iter().all(|(other, _, _)| other != name),
                "{name}"
            );
        }
    }

    #[test]
    fn a_machine_is_read_from_the_kernel() {
        let cpuinfo = "processor: 0\nflags\t\t: fpu sse2 avx2 avx512_bf16 hypervisor amx_tile fma\n\
                       processor: 1\nflags\t\t: avx\n";
        assert_eq!(
            instructions(cpuinfo),
            ["amx_tile", "avx2", "avx512_bf16", "fma", "sse2"]
        );
        assert_eq!(instructions(""), [""; 0]);

        let dir = tempfile::tempdir().unwrap();
        for (index, level, size) in [(0, "1\n", "32K\n"), (1, "2\n", "1024K\n")] {
            let folder = dir.path().join(format!("index{index}"));
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("level"), level).unwrap();
            fs::write(folder.join("type"), "Data\n").unwrap();
            fs::write(folder.join("size"), size).unwrap();
        }
        assert_eq!(caches(dir.path()), ["1 Data 32K", "2 Data 1024K"]);

        let library = dir.path().join("libgomp.so.1");
        fs::write(&library, [0; 7]).unwrap();
        let maps = format!(
            "7f00-7f01 r-xp 0 fe:00 1 {0}\n7f01-7f02 r--p 0 fe:00 1 {0}\n7f03-7f04 rw-p 0 00:00 0 \n\
             7f04-7f05 r-xp 0 fe:00 2 /usr/lib/libssl.so.3\n7f06-7f07 r-xp 0 fe:00 3 /none/libtorch_cuda.so\n7f05-7f06 rw-p 0 0:0 0 [heap]\n",
            library.display()
        );
        let of = |device| -> Vec<(String, u64)> { libraries(&maps, device) };
        let (gomp, cuda) = (("libgomp.so.1".to_owned(), 7), "libtorch_cuda.so");
        assert_eq!(of(Device::Cuda(0)), [gomp.clone(), (cuda.to_owned(), 0)]);
        assert_eq!(of(Device::Cpu), vec![gomp]);

        // cuBLAS, and cuDNN with the parts that it has not loaded yet.
        let gpu = dir.path().join("gpu");
        fs::create_dir(&gpu).unwrap();
        let names = ["libcublas.so.13", "libcublasLt.so.13", "libcudnn.so.9"];
        let mut maps = String::new();
        for name in names {
            fs::write(gpu.join(name), [0; 3]).unwrap();
            maps += &format!("7f00-7f01 r-xp 0 fe:00 1 {}/{name}\n", gpu.display());
        }
        fs::write(gpu.join("libcudnn_cnn.so.9"), [0; 4]).unwrap();
        fs::write(gpu.join("libcurl.so.4"), [0; 5]).unwrap();
        let found: Vec<(String, u64)> = libraries(&maps, Device::Cuda(0));
        let found: Vec<(&str, u64)> = found.iter().map(|(n, b)| (n.as_str(), *b)).collect();
        assert_eq!(
            found,
            [
                (names[0], 3),
                (names[1], 3),
                (names[2], 3),
                ("libcudnn_cnn.so.9", 4)
            ]
        );
        assert_eq!(libraries(&maps, Device::Cpu), []);

        fs::create_dir_all(dir.path().join("gpus/0000:01:00.0")).unwrap();
        fs::write(dir.path().join("version"), "NVRM version: 1.2\nGCC\n").unwrap();
        fs::write(
            dir.path().join("gpus/0000:01:00.0/information"),
            "Model: \t\t NVIDIA A\nIRQ: 1\n",
        )
        .unwrap();
        assert_eq!(gpus(dir.path()), ["NVRM version: 1.2", "NVIDIA A"]);
        assert_eq!(gpus(&dir.path().join("none")), [""; 0]);
    }

    #[test]
    fn this_process_has_its_libraries() {
        // Something of libtorch, so that its libraries are there.
        let _ = tch::Tensor::from(1.0);
        let machine = Machine::new(&crate::cpu::cpu(), Device::Cpu);
        if cfg!(target_os = "linux") {
            let has = |kind: &str| {
                machine
                    .libraries
                    .iter()
                    .any(|(n, b)| n.starts_with(kind) && *b > 0)
            };
            assert!(has("libtorch_cpu") && has("libm."), "{machine:?}");
        }
        assert_eq!(machine, Machine::new(&crate::cpu::cpu(), Device::Cpu));
    }
}
