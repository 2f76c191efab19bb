use anyhow::bail;

use super::given;

/// Which traces are recorded, in the words of OTEL_TRACES_SAMPLER.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sampler {
    /// Whether the client's own decision goes before.
    by_parent: bool,
    /// Of traces that nobody has decided about.
    ratio: f64,
}

impl Sampler {
    pub(super) fn from_environment() -> anyhow::Result<Self> {
        Self::named(given("OTEL_TRACES_SAMPLER").as_deref(), given("OTEL_TRACES_SAMPLER_ARG").as_deref())
    }

    fn named(name: Option<&str>, argument: Option<&str>) -> anyhow::Result<Self> {
        let ratio = || match argument.unwrap_or("1").parse() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
            _ => bail!("OTEL_TRACES_SAMPLER_ARG is no number from 0 to 1"),
        };
        let name = name.unwrap_or("parentbased_always_on");
        let ratio = match name.trim_start_matches("parentbased_") {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => ratio()?,
            _ => bail!(
                "OTEL_TRACES_SAMPLER is none of always_on, always_off, traceidratio, and those with parentbased_ before"
            ),
        };
        Ok(Self { by_parent: name.starts_with("parentbased_"), ratio })
    }

    /// `parent` is the flags that the client sent. A trace's id decides the same way everywhere, so that no trace is recorded in part.
    pub(super) fn samples(&self, trace: u128, parent: Option<u8>) -> bool {
        match parent {
            Some(flags) if self.by_parent => flags & 1 != 0,
            // As OpenTelemetry's SDKs have it: the lower 63 bits, below that share of all.
            _ => ((trace as u64) >> 1) < (self.ratio * (1_u64 << 63) as f64) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(name: &str, argument: Option<&str>) -> Sampler {
        Sampler::named(Some(name), argument).unwrap()
    }

    #[test]
    fn the_client_decides_unless_told_otherwise() {
        let default = Sampler::named(None, None).unwrap();
        assert_eq!(default, sampler("parentbased_always_on", None));
        for (name, root, sampled, unsampled) in [
            ("parentbased_always_on", true, true, false),
            ("parentbased_always_off", false, true, false),
            ("always_on", true, true, true),
            ("always_off", false, false, false),
        ] {
            let sampler = sampler(name, None);
            let decided = [None, Some(1), Some(0)].map(|parent| sampler.samples(u128::MAX, parent));
            assert_eq!(decided, [root, sampled, unsampled], "{name}");
        }
    }

    #[test]
    fn a_ratio_takes_its_share() {
        let quarter = sampler("traceidratio", Some("0.25"));
        let taken = (0..4000).filter(|_| quarter.samples(u128::from(fastrand::u64(..)), None)).count();
        assert!((700..1300).contains(&taken), "{taken} of 4000");
        assert!(!sampler("traceidratio", Some("0")).samples(0, None));
        assert!(sampler("parentbased_traceidratio", Some("0")).samples(0, Some(1)));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for (name, argument) in
            [("sometimes", None), ("traceidratio", Some("2")), ("traceidratio", Some("x"))]
        {
            Sampler::named(Some(name), argument).unwrap_err();
        }
    }
}
