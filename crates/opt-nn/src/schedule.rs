//! Learning rates over a run.

/// How the learning rate moves from the first step to the last.
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule {
    /// The same throughout.
    Constant,
    /// Linearly up from `start`·lr to lr at the fraction `peak` of the run, then linearly down to `end`·lr.
    ///
    /// # References
    ///
    /// L. Smith, N. Topin, *Super-Convergence*, 2017, arXiv:1708.07120.
    OneCycle {
        /// Where the peak is, 0 to 1.
        peak: f64,
        /// Factor at the start.
        start: f64,
        /// Factor at the end.
        end: f64,
    },
    /// Linearly up from 0 over the fraction `warmup` of the run, then down to `end`·lr on half a cosine.
    ///
    /// ```text
    /// factor = end + (1 - end)·(1 + cos(π·q))/2        q: the share of the run after the warm-up
    /// ```
    ///
    /// # References
    ///
    /// I. Loshchilov, F. Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*, 2016, arXiv:1608.03983.
    Cosine {
        /// Where the peak is, 0 to 1.
        warmup: f64,
        /// Factor at the end.
        end: f64,
    },
    /// Multiplied by `factor` at each of these fractions of the run.
    Step {
        /// Fractions of the run, 0 to 1, ascending.
        at: Vec<f64>,
        /// Factor.
        factor: f64,
    },
}

impl Schedule {
    /// The factor on the learning rate when the fraction `progress` (0 to 1) of the run is done.
    ///
    /// ```
    /// use opt_nn::schedule::Schedule;
    /// let cycle = Schedule::OneCycle { peak: 0.25, start: 0.0, end: 0.0 };
    /// assert_eq!(cycle.factor(0.125), 0.5);
    /// assert_eq!(cycle.factor(0.625), 0.5);
    /// let step = Schedule::Step { at: vec![0.5, 0.75], factor: 0.1 };
    /// assert_eq!(step.factor(0.49), 1.0);
    /// assert_eq!(step.factor(0.5), 0.1);
    /// let cosine = Schedule::Cosine { warmup: 0.0, end: 0.2 };
    /// assert!((cosine.factor(0.5) - 0.6).abs() < 1e-12);
    /// ```
    #[must_use]
    pub fn factor(&self, progress: f64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::OneCycle { peak, start, end } => {
                if progress < *peak {
                    start + (1.0 - start) * progress / peak
                } else if *peak < 1.0 {
                    1.0 + (end - 1.0) * ((progress - peak) / (1.0 - peak)).min(1.0)
                } else {
                    1.0
                }
            }
            Self::Cosine { warmup, end } => {
                if progress < *warmup {
                    progress / warmup
                } else if *warmup < 1.0 {
                    let q = ((progress - warmup) / (1.0 - warmup)).min(1.0);
                    end + (1.0 - end) * 0.5 * (1.0 + (std::f64::consts::PI * q).cos())
                } else {
                    1.0
                }
            }
            Self::Step { at, factor } => {
                let passed = at.iter().filter(|a| progress >= **a).count();
                factor.powi(i32::try_from(passed).unwrap_or(i32::MAX))
            }
        }
    }
}
