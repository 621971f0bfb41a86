//! Parsers of the small texts Linux tells its state in. Pure, so that they can be tested
//! against texts of machines other than this one.

/// Number of CPUs in a list such as `0-3,8,10-11`.
pub(crate) fn cpu_list(list: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for range in list.trim().split(',').filter(|r| !r.is_empty()) {
        let (first, last) = match range.split_once('-') {
            Some((first, last)) => (first.trim().parse().ok()?, last.trim().parse().ok()?),
            None => {
                let cpu: u32 = range.trim().parse().ok()?;
                (cpu, cpu)
            }
        };
        // A kernel supports 8192 CPUs; anything far beyond is not a CPU list.
        if last < first || last > 1 << 20 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// Bytes of a size such as `32768K`.
pub(crate) fn size_bytes(size: &str) -> Option<u64> {
    let size = size.trim();
    let (digits, unit) = match size.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1 << 10),
        None => match size.strip_suffix('M') {
            Some(digits) => (digits, 1 << 20),
            None => (size, 1),
        },
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Bytes of a line such as `VmHWM:  123456 kB` in `/proc/self/status` or `/proc/meminfo`.
pub(crate) fn kb_field_bytes(text: &str, field: &str) -> Option<u64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    value
        .trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1 << 10)
}

/// The value of a `name value` line, as in `memory.stat`.
pub(crate) fn counter(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| value.trim().parse().ok())?
    })
}

/// CPU time of the whole machine since boot, in clock ticks: the first line of `/proc/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuTicks {
    /// user + nice + system + irq + softirq.
    pub(crate) busy: u64,
    /// idle + iowait.
    pub(crate) idle: u64,
    /// Wanted, but run by the hypervisor for someone else.
    pub(crate) steal: u64,
}

pub(crate) fn cpu_ticks(proc_stat: &str) -> Option<CpuTicks> {
    let line = proc_stat.lines().find_map(|l| l.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    // user nice system idle iowait irq softirq steal; guest time is part of user.
    let [user, nice, system, idle, iowait, irq, softirq, rest @ ..] = ticks.as_slice() else {
        return None;
    };
    Some(CpuTicks {
        busy: user + nice + system + irq + softirq,
        idle: idle + iowait,
        steal: rest.first().copied().unwrap_or(0),
    })
}

/// User and system ticks of a process: fields 14 and 15 of `/proc/self/stat`, counted after
/// the command name, which may itself hold spaces and brackets.
pub(crate) fn process_ticks(proc_self_stat: &str) -> Option<(u64, u64)> {
    let after_name = proc_self_stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Whether `/proc/<id>/stat` is that of a thread of the kernel: its flag `PF_KTHREAD` is set.
pub(crate) fn is_kernel_thread(stat: &str) -> bool {
    const PF_KTHREAD: u64 = 0x0020_0000;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let flags = after_name.split_whitespace().nth(6);
    flags
        .and_then(|f| f.parse::<u64>().ok())
        .is_some_and(|f| f & PF_KTHREAD != 0)
}

/// The command name in `/proc/<id>/stat`: what stands between the outermost brackets.
pub(crate) fn process_name(stat: &str) -> Option<&str> {
    Some(stat.split_once('(')?.1.rsplit_once(')')?.0)
}

/// Frequency of the first CPU in `/proc/cpuinfo`, MHz, where the architecture states one.
pub(crate) fn cpuinfo_mhz(text: &str) -> Option<f64> {
    let (_, mhz) = text
        .lines()
        .find_map(|line| line.split_once(':').filter(|(k, _)| k.trim() == "cpu MHz"))?;
    mhz.trim().parse().ok()
}

/// The three averages of `/proc/loadavg`.
pub(crate) fn load_average(text: &str) -> Option<[f64; 3]> {
    let mut fields = text.split_whitespace().map(str::parse::<f64>);
    Some([
        fields.next()?.ok()?,
        fields.next()?.ok()?,
        fields.next()?.ok()?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cpu_lists() {
        assert_eq!(cpu_list("0-3,8,10-11\n"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(cpu_list("5"), Some(vec![5]));
        assert_eq!(cpu_list(""), Some(vec![]));
        for bad in ["a", "3-1", "1-", "0-4294967295"] {
            assert_eq!(cpu_list(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size_bytes("32768K\n"), Some(32 << 20));
        assert_eq!(size_bytes("1M"), Some(1 << 20));
        assert_eq!(size_bytes("512"), Some(512));
        assert_eq!(size_bytes("K"), None);
        assert_eq!(size_bytes("99999999999999999999K"), None);
    }

    #[test]
    fn status_fields() {
        let status = "Name:\tx\nVmPeak:\t  999 kB\nVmHWM:\t   2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(kb_field_bytes(status, "VmHWM"), Some(2 << 20));
        assert_eq!(kb_field_bytes(status, "VmRSS"), Some(1 << 20));
        assert_eq!(kb_field_bytes(status, "Vm"), None);
        assert_eq!(kb_field_bytes(status, "VmSwap"), None);
    }

    #[test]
    fn machine_ticks_with_and_without_steal() {
        let stat = "cpu  100 20 30 400 50 6 7 8 90 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        let ticks = CpuTicks {
            busy: 163,
            idle: 450,
            steal: 8,
        };
        assert_eq!(cpu_ticks(stat), Some(ticks));
        let old = cpu_ticks("cpu  1 2 3 4 5 6 7\n").unwrap();
        assert_eq!(old.steal, 0);
        assert_eq!(cpu_ticks("cpu  1 2 3\n"), None);
        assert_eq!(cpu_ticks("intr 5\n"), None);
    }

    #[test]
    fn threads_of_the_kernel_are_told_by_their_flag() {
        let worker = "17 (kworker/0:1-events) I 2 0 0 0 -1 69238880 0 0 0 0 0 3 0 0 20 0 1";
        let shell = "811 (sh) S 1 811 811 0 -1 4194560 390 0 0 0 1 2 0 0 20 0 1";
        assert!(is_kernel_thread(worker) && !is_kernel_thread(shell));
        assert!(!is_kernel_thread("") && !is_kernel_thread("1 (a) S 1"));
    }

    #[test]
    fn process_ticks_after_a_name_with_brackets() {
        let stat = "4242 (a (odd) name) R 1 2 3 4 5 6 7 8 9 10 77 33 0 0 20 0 9 0 1 2 3";
        assert_eq!(process_ticks(stat), Some((77, 33)));
        assert_eq!(process_ticks("1 (x) R 1"), None);
        assert_eq!(process_name(stat), Some("a (odd) name"));
        assert_eq!(process_name("1 x R 1"), None);
    }

    #[test]
    fn frequency() {
        let x86 = "processor\t: 0\nmodel name\t: A: B\ncpu MHz\t\t: 2445.402\nprocessor\t: 1\n";
        assert_eq!(cpuinfo_mhz(x86), Some(2445.402));
        assert_eq!(cpuinfo_mhz("processor\t: 0\nBogoMIPS\t: 50.00\n"), None);
    }

    #[test]
    fn load_averages() {
        assert_eq!(
            load_average("0.50 1.25 3.00 2/345 678\n"),
            Some([0.5, 1.25, 3.0])
        );
        assert_eq!(load_average("0.50 1.25"), None);
    }

    proptest! {
        /// Whatever a file holds, parsing it ends in a value or in none.
        #[test]
        fn no_text_panics(text in "\\PC{0,200}") {
            let _ = cpu_list(&text);
            let _ = size_bytes(&text);
            let _ = kb_field_bytes(&text, "VmRSS");
            let _ = counter(&text, "x");
            let _ = cpu_ticks(&text);
            let _ = process_ticks(&text);
            let _ = process_name(&text);
            let _ = load_average(&text);
            let _ = cpuinfo_mhz(&text);
        }
    }
}
