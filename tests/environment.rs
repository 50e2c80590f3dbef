//! What the machine lacks is a typed error, never a panic.

use ocelli::{Device, Error};

#[test]
fn a_missing_device_is_a_typed_error() {
    match Device::cuda(0) {
        Ok(device) => assert_eq!(device.to_string(), "cuda:0"),
        Err(error) => assert!(error.is_environment(), "{error}"),
    }
    match Device::cuda(10_000) {
        Ok(device) => panic!("{device}"),
        Err(Error::NoDevice {
            ordinal: 10_000, ..
        }) => {}
        Err(error) => assert!(error.is_environment(), "{error}"),
    }
}
