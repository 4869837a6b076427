//! NaN, infinities, zeros and subnormal numbers on the device, whose compilers may assume that there are none.

use enfold::lower::lower;
use pollster::block_on;

use crate::device::engine;
use crate::report::report;
use crate::specials::{disagreement, specials};

#[test]
fn the_device_follows_ieee() {
    let Some((_, engine)) = engine("special values") else { return };
    let (mut wrong, specials) = (Vec::new(), specials());
    for special in &specials {
        let name = &special.name;
        let program = lower(&special.graph).unwrap_or_else(|e| panic!("{name}: {e}"));
        let model = block_on(engine.load(&program)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let got = block_on(model.run(&special.inputs)).unwrap_or_else(|e| panic!("{name}: {e}"));
        wrong.extend(disagreement(special, &got[0]));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    report(&format!("special values: {} graphs", specials.len()));
}
