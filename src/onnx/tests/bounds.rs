//! Integers where 32 bits end.

use super::super::proto::data_type as ty;
use super::integers::stored;
use super::*;

/// A bound that 32 bits do not hold changes nothing on its own side, and would be all that is left on the other.
#[test]
fn clips_by_bounds_beyond_32_bits() {
    let far = 1i128 << 40;
    let clip = |low: i128, high: i128| {
        let build = Build::new(17).ids("a", &["batch", "3"]);
        let build = build.store(stored("low", ty::INT64, &[], &[low])).store(stored("high", ty::INT64, &[], &[high]));
        build.node("Clip", "a low high", "y").output("y").import(&[])
    };
    let a = Tensor::from_i32(&[1, 3], vec![i32::MIN, 0, i32::MAX]).expect("three");
    for (low, high) in [(-far, far), (i32::MIN.into(), far), (-far, i32::MAX.into())] {
        assert_eq!(run(&clip(low, high).expect("nothing is cut"), std::slice::from_ref(&a)), a, "{low} {high}");
    }
    let least_above = i128::from(i32::MAX) + 1;
    for (low, high, named) in [(least_above, far, least_above), (-far, -least_above - 1, -least_above - 1)] {
        let error = clip(low, high).expect_err("a number that i32 lacks").to_string();
        assert!(error.contains(&format!("(Clip): its bound is {named}, which does not fit 32 bits")), "{error}");
    }
}
