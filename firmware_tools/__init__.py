"""The workshop: conversion of models and everything about the sensor bridge."""
