//! The processor, by what decides the arithmetic used.

use std::fs;

use opt_report::Cpu;

/// Names the processor and those of its features that decide the arithmetic used.
#[must_use]
pub fn cpu() -> Cpu {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    Cpu {
        model: cpu_model(&text).unwrap_or("unknown").to_owned(),
        features: cpu_features()
            .into_iter()
            .filter(|(_, present)| *present)
            .map(|(name, _)| name.to_owned())
            .collect(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
    }
}

fn cpu_model(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo
        .lines()
        .find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<(&'static str, bool)> {
    vec![
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512_vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512_bf16", is_x86_feature_detected!("avx512bf16")),
        ("avx_vnni", is_x86_feature_detected!("avxvnni")),
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<(&'static str, bool)> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_of_a_processor() {
        let cases = [
            (
                "processor\t: 0\nmodel name\t: AMD EPYC 9R14\nflags\t: fpu\n",
                Some("AMD EPYC 9R14"),
            ),
            // Other architectures have no such line.
            ("processor\t: 0\nBogoMIPS\t: 50\n", None),
            ("", None),
        ];
        for (text, model) in cases {
            assert_eq!(cpu_model(text), model);
        }
        assert!(cpu().cores >= 1);
    }
}
