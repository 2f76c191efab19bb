import "gearway";
