//! The sets of kernels and which of them this CPU can run.

pub(crate) mod float;
pub(crate) mod portable;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_avx512vnni;

use std::fmt;

/// A set of kernels. All give the same codes; they differ in speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kernels {
    /// Portable Rust.
    Scalar,
    /// x86-64 with AVX-512 VNNI: `vpdpbusd` on 16 output channels × 4 input channels, 64 products in an instruction.
    Avx512Vnni,
}

impl Kernels {
    /// Every set, slowest first.
    pub const ALL: [Self; 2] = [Self::Scalar, Self::Avx512Vnni];

    /// The name, as options and results write it.
    ///
    /// ```
    /// use opt_infer::Kernels;
    /// assert_eq!("scalar".parse::<Kernels>()?, Kernels::Scalar);
    /// assert_eq!(Kernels::Avx512Vnni.name(), "avx512vnni");
    /// # Ok::<(), opt_infer::InferError>(())
    /// ```
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx512Vnni => "avx512vnni",
        }
    }

    /// The instructions that the CPU must have.
    #[must_use]
    pub fn needs(self) -> &'static str {
        match self {
            Self::Scalar => "nothing in particular",
            Self::Avx512Vnni => "AVX-512 F, BW, VL, DQ and VNNI",
        }
    }

    /// Whether this CPU can run them.
    #[must_use]
    pub fn available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512Vnni => false,
        }
    }

    /// The fastest set that this CPU can run.
    #[must_use]
    pub fn best() -> Self {
        let mut available = Self::ALL.into_iter().filter(|k| k.available());
        available.next_back().unwrap_or(Self::Scalar)
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
